"""One delivery from its claim to its ack: the executor and its steps. Knows ports, never a server or a vendor."""
