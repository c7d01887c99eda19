"""The decisions of a router that runs jobs: how many calls, whose shard next, which rows are at fault, when it ends."""
