"""Commands that measure; each prints a table and writes JSON with device, versions, commit and command."""
