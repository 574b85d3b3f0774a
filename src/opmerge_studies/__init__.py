"""The questions that opmerge answers by experiment: a room each, a record and a page out.

A room is a package with ``STUDY``, an ``opmerge_studies.shared.Study``, registered under the entry
point group ``opmerge.studies``; anyone's package can add one (``examples/own_study``).
"""
