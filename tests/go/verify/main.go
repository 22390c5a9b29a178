// Verifies an access log with the code that verifies Go's own checksum database (golang.org/x/mod/sumdb).
//
//	verify FOLDER VKEY [EARLIER-CHECKPOINT]
//
// The checkpoint is opened with VKEY (Ed25519), every entry is proved to be in its tree, and with an earlier checkpoint
// the tree is shown to begin with it. Exit code 0: all holds; 1: something does not.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	height = 8
	width  = 1 << height
)

// tiles reads tiles as C2SP names them: Go's names carry the height of a tile in front, C2SP's have but one height.
type tiles struct{ folder string }

func (t tiles) Height() int { return height }

func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (t tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var contents [][]byte
	for _, tile := range wanted {
		path := strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/", height), "tile/", 1)
		content, err := read(t.folder, path, tile.W*tlog.HashSize)
		if err != nil {
			return nil, err
		}
		contents = append(contents, content)
	}
	return contents, nil
}

// read gives the first bytes of a file; of a partial one that has become full since, the full one's.
func read(folder, path string, size int) ([]byte, error) {
	content, err := os.ReadFile(filepath.Join(folder, path))
	if os.IsNotExist(err) {
		full, _, _ := strings.Cut(path, ".p/")
		content, err = os.ReadFile(filepath.Join(folder, full))
	}
	if err == nil && size > 0 {
		if len(content) < size {
			return nil, fmt.Errorf("%s is too short", path)
		}
		content = content[:size]
	}
	return content, err
}

// open gives the tree that a signed checkpoint says. Lines of other kinds (SM2, witnesses) are keys unknown to Go.
func open(path, vkey string) (tlog.Tree, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tlog.Tree{}, err
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return tlog.Tree{}, err
	}
	signed, err := note.Open(raw, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(signed.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("%s is no checkpoint of %s", path, verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tlog.Tree{}, fmt.Errorf("%s has no root", path)
	}
	tree := tlog.Tree{N: size}
	copy(tree.Hash[:], root)
	return tree, nil
}

// entries gives those of a bundle: each with its length in two bytes in front.
func entries(folder string, number, size int64) ([][]byte, error) {
	tile := tlog.Tile{H: height, L: 0, N: number, W: int(min(width, size-number*width))}
	path := strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/0/", height), "tile/entries/", 1)
	content, err := read(folder, path, 0)
	if err != nil {
		return nil, err
	}
	var found [][]byte
	for len(content) >= 2 && len(found) < tile.W {
		end := 2 + int(binary.BigEndian.Uint16(content))
		if len(content) < end {
			break
		}
		found, content = append(found, content[2:end]), content[end:]
	}
	if len(found) != tile.W {
		return nil, fmt.Errorf("%s has %d entries: expected %d", path, len(found), tile.W)
	}
	return found, nil
}

func min(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}

func verify(folder, vkey, earlier string) (tlog.Tree, error) {
	tree, err := open(filepath.Join(folder, "checkpoint"), vkey)
	if err != nil {
		return tree, err
	}
	hashes := tlog.TileHashReader(tree, tiles{folder})
	for start := int64(0); start < tree.N; start += width {
		bundle, err := entries(folder, start/width, tree.N)
		if err != nil {
			return tree, err
		}
		for at, entry := range bundle {
			index := start + int64(at)
			proof, err := tlog.ProveRecord(tree.N, index, hashes)
			if err != nil {
				return tree, err
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
				return tree, fmt.Errorf("entry %d: %w", index, err)
			}
		}
	}
	if earlier == "" {
		return tree, nil
	}
	old, err := open(earlier, vkey)
	if err != nil || old.N == 0 {
		return tree, err
	}
	if old.N > tree.N {
		return tree, fmt.Errorf("the log has %d entries, and had %d", tree.N, old.N)
	}
	proof, err := tlog.ProveTree(tree.N, old.N, hashes)
	if err != nil {
		return tree, err
	}
	return tree, tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash)
}

func main() {
	if len(os.Args) < 3 || len(os.Args) > 4 {
		fmt.Fprintln(os.Stderr, "usage: verify FOLDER VKEY [EARLIER-CHECKPOINT]")
		os.Exit(2)
	}
	earlier := ""
	if len(os.Args) == 4 {
		earlier = os.Args[3]
	}
	tree, err := verify(os.Args[1], os.Args[2], earlier)
	if err != nil {
		fmt.Println("DOES NOT HOLD:", err)
		os.Exit(1)
	}
	fmt.Printf("holds: %d entries, root %s\n", tree.N, tree.Hash)
}
