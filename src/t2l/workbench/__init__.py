"""The page on which people try descriptions: Gradio, mounted on the same server and engine as ``t2l serve``.

Level 6. Importing this package imports nothing, and tells Gradio what it must know before it is imported. No page keeps
anything of a visitor: what is asked is in the request, what was made is the engine's, so any number of people can work
at once.
"""

import os

os.environ |= {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",  # it would make a table of the last 10,000 steps at every step
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(1 << 60),
}
