"""What the chapters draw, move and ask with: `figures`, `drawings`, `explore`, `quiz`, `running_table`."""
