"""Adapters made on request for servers: our own OpenAI-compatible one, and those of others (vLLM, SGLang).

Level 5. Importing this package imports nothing; no training code is imported here, and only ``engine.py`` holds state
that outlives a request.
"""
