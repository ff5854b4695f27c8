"""Version 1 of the protocol: services Fleet (devices) and Control (the operator)."""
