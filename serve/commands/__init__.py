"""The commands, a file for each concern; heavy libraries are imported when a command runs."""
