"""A dispatch node owns partitions: audiences, inboxes, receipts. It knows no sockets of devices.

`partition`, `campaign`, `sending` hold state and decide; `node` and its neighbours act.
"""
