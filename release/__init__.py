"""What fleet owners install: the edge client as a folder that needs no Python, and how it is made and tried."""
