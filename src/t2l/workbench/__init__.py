"""The page on which people try descriptions: Gradio, mounted on the same server and engine as ``t2l serve``.

Level 6. Importing this package imports nothing. No page keeps anything of a visitor: what is asked is in the request,
what was made is the engine's, so any number of people can work at once.
"""
