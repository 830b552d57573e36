"""What happens? One module or folder per stage; stages meet only through files and their
manifests."""
