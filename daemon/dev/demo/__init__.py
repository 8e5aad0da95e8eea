"""`make demo`: the whole way of a task on this machine, for people to look at.

Real servers, the real relay and the real daemon as processes of their own; stand-ins only for QStash and the models.
`world` starts and ends the parts, `orders` says what is asked, `answers` what the stand-in for the models says,
`watching` reads the events as a front end would, `screen` and `plain` show them, `closing` judges and sums up, `show`
is the order of it all. Called by `cli.demo` only.
"""
