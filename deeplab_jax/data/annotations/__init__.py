"""Reads what annotation tools export, as they write it: see `find`.

One file for each format; `drawing` makes masks of objects by one rule, `export`
puts pictures and masks where the folder builder looks for them, `report` says
what a mask does not show.
"""
