"""The edge keeps device connections. It knows sessions, nothing of audiences.

One epoll holds all device sockets; a connection is a row in columns, not an object.
"""
