"""Media over a carrier's WebSocket, without the socket: text and bytes in, events and text out."""
