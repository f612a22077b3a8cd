"""Speed and memory here: what a run really takes, beside what was forecast. Faces in app/benching.py."""
