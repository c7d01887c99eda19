"""The WebSocket wire: continuous input for one model, on the router's port."""
