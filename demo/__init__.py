"""The main job on real input: all-MiniLM-L6-v2 learns 20 Newsgroups from devices that keep their documents."""
