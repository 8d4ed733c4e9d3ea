"""Everything between the core and the world: settings, store, queue, tasks, services, command line."""
