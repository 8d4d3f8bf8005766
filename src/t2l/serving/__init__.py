"""Adapters made on request for servers: those of others (vLLM, SGLang) and our own.

Level 5. Importing this package imports nothing; each file says what it needs.
"""
