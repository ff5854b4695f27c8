"""What the binary starts."""

from edge.__main__ import main

main()
