"""Is this description one to trust: confidence, nearest training tasks, wording, and what to do instead.

Level 5. Knows `t2l.model.TextToLora` and descriptions; it knows no training, no server and no command line.
"""
