"""The data doctor: reads every row, changes nothing, and says what is wrong, where, and what to do.

examine.py      the one pass over the rows, and what it holds of them
findings.py     rules with their remedies, and the report
pieces.py       a record as the texts in it; a Mark is a stretch that a rule points at
text_faults.py private.py wording.py language.py answers.py near.py leakage.py balance.py suspects.py   the rules
rules.py rules.yaml custom.py                                              what a person may change
"""

from tunesmith.data.doctor.examine import check as check
from tunesmith.data.doctor.findings import CheckReport as CheckReport
from tunesmith.data.doctor.findings import Example as Example
from tunesmith.data.doctor.findings import Finding as Finding
