"""How documents get into the outbox: the socket, the spool folder, and what is done to the bytes on the way."""
