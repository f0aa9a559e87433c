"""What an offloaded sample costs in bytes and in accuracy, compared with sending the photo."""
