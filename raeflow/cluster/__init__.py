"""The only room that imports ray: search, train and score on a cluster, or on this machine as one."""
