"""`data clean`: a cleaned copy, and a report that gives the original back byte for byte. The original is not touched.

wash.py     a recipe's train files, one after the other: cleaned copy + report
steps.py    what can be done to a text or a row, by name; which of it is done unasked
spots.py    where the texts of a raw row stand, and their tokens in its JSON
segments.py where the rows of a file stand, byte for byte
edits.py    what was changed, written down; and undone
"""

from tunesmith.data.clean.edits import restore as restore
from tunesmith.data.clean.wash import Cleaned as Cleaned
from tunesmith.data.clean.wash import clean as clean
