"""Settings of other tools into a recipe: every key is taken over, translated with its arithmetic, or named as left."""
