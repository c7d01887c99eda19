"""The router's socket for HTTP: plain inference requests are served here, all others by aiohttp."""
