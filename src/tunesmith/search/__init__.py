"""Looking for better settings: the learning rate by a range test, everything else by runs side by side."""
