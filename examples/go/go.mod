module chunkgrpo.example/first

go 1.19
