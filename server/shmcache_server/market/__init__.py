"""The market service: vendors' figures in one dashboard, as a hosted application.

The map
    vendors    a vendor's payload to a reading (answers: whether it is one); pure
    parts      what there is, where it comes from, how it is asked for; data
    settings   the table [app.settings]
"""
