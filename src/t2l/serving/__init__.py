"""Serving: one base in memory, adapters made on request, and an OpenAI-compatible HTTP server in front.

Level 5. No training code is imported here, and only ``engine.py`` holds state that outlives a request.
"""
