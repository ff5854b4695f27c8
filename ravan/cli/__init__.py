"""What the command lines share: settings, one-sentence errors and logs."""
