"""The fault suite: a real platform under load is killed, stopped, cut off and damaged; a history checker decides.

`history` holds what senders did, `observed` what the platform answers for, `checker` compares the two. `schedule` draws
faults from a seed, `stand` is the platform they happen to, `fault_run` plays one run. See CONTRIBUTING.md.
"""
