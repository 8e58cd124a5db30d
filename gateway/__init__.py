"""The service: edges, dispatch nodes, the store's client and the HTTP API."""
