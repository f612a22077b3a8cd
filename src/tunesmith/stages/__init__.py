"""Several recipes in one run folder, each starting from the one before.

    runs/x/ recipe.yaml stages.json                 base --01-pretrain--> merged --02-sft--> what is evaluated,
            stages/01-pretrain/ 02-sft/             chatted with and exported as the run's own
            events.jsonl report.json answers/       of the whole: steps counted through, before, after
ahead.py, plan.py   all stages before a weight is loaded        train.py   one after the other, resumable anywhere
report.py           what the stages' books say together
"""
