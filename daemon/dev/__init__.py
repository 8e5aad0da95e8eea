"""Stand-ins for what the product talks to, crash points, and the demo. Never part of production."""
