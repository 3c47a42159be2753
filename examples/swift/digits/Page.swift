import DemoSupport

/// A run on one page, which holds its pictures and needs no other file.
struct Page {
  let title: String
  /// HTML, a paragraph each.
  let introduction: [String]
  /// The first row is the head.
  let table: [[String]]
  let pictures: [(image: Image, alternative: String, caption: String)]

  var html: String {
    """
    <!DOCTYPE html>
    <html lang="en">
    <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>\(title)</title>
    <style>
    body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.55 system-ui, sans-serif; color: #262a32; }
    h1 { font-size: 1.6rem; line-height: 1.2; }
    div { overflow-x: auto; }
    table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
    th, td { padding: .35rem .6rem; border-bottom: 1px solid #c4c8ce; text-align: right; }
    th:first-child, td:first-child { text-align: left; }
    figure { margin: 2rem 0; }
    img { max-width: 100%; height: auto; }
    figcaption { color: #5a6070; }
    </style>
    </head>
    <body>
    <h1>\(title)</h1>
    \(introduction.map { "<p>\($0)</p>" }.joined(separator: "\n"))
    <div><table>
    \(table.enumerated().map { row($1, $0 == 0 ? "th" : "td") }.joined(separator: "\n"))
    </table></div>
    \(pictures.map(figure).joined(separator: "\n"))
    </body>
    </html>

    """
  }

  private func row(_ cells: [String], _ tag: String) -> String {
    "<tr>" + cells.map { "<\(tag)>\($0)</\(tag)>" }.joined() + "</tr>"
  }

  private func figure(_ image: Image, _ alternative: String, _ caption: String) -> String {
    """
    <figure><img src="data:image/png;base64,\(base64(image.png))" alt="\(alternative)">
    <figcaption>\(caption)</figcaption></figure>
    """
  }
}
