"""`spaars`: the command line. One file per command; this one dispatches and words the errors."""
