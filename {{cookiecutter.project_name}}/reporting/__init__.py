"""The report: runs as one HTML file that a browser opens without server or network."""
