"""What the chapters draw with: `figures`."""
