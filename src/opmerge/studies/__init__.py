"""Studies: one question each, a typed configuration in, a record and a page out."""
