"""The doctor's checks: small functions, each about one server or place, that say what they found and its cure."""
