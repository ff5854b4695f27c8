"""What the client takes of a device, measured from its binary."""
