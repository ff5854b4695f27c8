"""Rounds of a server on loopback: ours, Flower's, and the least that moving and adding up the same bytes takes."""
