"""What Flower runs: clients that add a constant."""
