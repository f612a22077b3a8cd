"""What a person sees: contracted JSON documents in, rich renderables out. Nothing here computes."""
