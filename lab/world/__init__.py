"""The embedded world: micro-tasks, their descriptions, a tiny base, a hypernetwork, and how to rebuild them all.

Level 6. The tutorial, the test fixture and the smoke test at once. Nothing outside this folder knows micro-tasks.
"""
