"""Theory beyond the closed form of one plan; what studies share, each module one question.

Budgets: ``allocation`` (a plan's times), ``frontier`` (cost against error). Training as it is:
``simulation``, ``sgd_noise``, ``batches``, ``mixing`` (all students at once). Other problems:
``matrices`` (noise that does not commute with the data), ``misfit`` (teachers of another
covariance), ``overtaking`` (students nearer to the data), ``transition`` (BOOT meets vanilla).
"""
