"""A fleet in virtual time: the production code of routers and nodes, driven by seeded chance. Pure but for two modules."""
