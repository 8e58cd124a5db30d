"""The wire between devices, edges and dispatch nodes.

Pure: no asyncio, socket, ssl, select, time or logging in here (a test enforces it). Bytes go in,
frames and states come out; whoever does I/O calls this package.
"""
