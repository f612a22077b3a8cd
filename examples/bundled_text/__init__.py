"""The words and grammars behind the bundled model: every sentence it ever reads is made here.

words -> skills (question and answer) -> corpus (what the base model reads)
words -> desk   (requests and calls)  -> what the demo fine-tunes on
"""
