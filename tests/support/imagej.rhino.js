// Runs in Rhino, a JavaScript engine in Java, with the Orthanc plug-in of ImageJ in its class path; its argument is a
// server's URL. Prints what the plug-in shows of it as JSON.

/** Calls what the plug-in keeps private: its window does so when a person opens a level. */
function invoke(object, name, types, values) {
  const method = object.getClass().getDeclaredMethod(name, types || [])
  method.setAccessible(true)
  return method.invoke(object, values || [])
}

function hidden(object, type, name) {
  const field = type.getDeclaredField(name)
  field.setAccessible(true)
  return field.get(object)
}

function digest(pixels) {
  const bytes = java.nio.ByteBuffer.allocate(pixels.length * 2).order(java.nio.ByteOrder.LITTLE_ENDIAN)
  bytes.asShortBuffer().put(pixels)
  const sha256 = java.security.MessageDigest.getInstance('SHA-256').digest(bytes.array())
  return String(new java.math.BigInteger(1, sha256).toString(16)).padStart(64, '0')
}

/** A series as a stack, or an instance; null when the plug-in cannot: Orthanc refuses it 16 bits of coloured pictures. */
function open(connection, isInstance, id) {
  let image
  try {
    image = new com.orthancserver.DicomDecoder(connection, isInstance, id).GetImage()
  } catch (_error) {
    return null
  }
  const calibration = image.getCalibration()
  const slices = []
  for (let slice = 1; slice <= image.getStackSize(); slice++) slices.push(digest(image.getStack().getPixels(slice)))
  return {
    size: [image.getWidth(), image.getHeight()],
    slices: slices,
    valueOf100: calibration.getCValue(100),
    pixelSize: [calibration.pixelWidth, calibration.pixelHeight, String(calibration.getUnit())],
    namesPatient: String(image.getProperty('Info')).includes('DOE^JANE'),
  }
}

const levels = ['LoadPatients', 'LoadStudies', 'LoadSeries', 'LoadInstances']

function browse(connection, node, level) {
  const children = new java.util.ArrayList(invoke(node, levels[level]))
  java.util.Collections.sort(children)
  return children.toArray().map(child => {
    const shown = { title: String(child) }
    if (level >= 2) {
      const panel = new com.orthancserver.PreviewPanel()
      invoke(child, 'UpdatePreview', [panel.getClass()], [panel])
      const preview = hidden(panel, panel.getClass(), 'image_')
      shown.preview = preview && [preview.getWidth(), preview.getHeight()]
    }
    if (level >= 2) shown.image = open(connection, level === 3, invoke(child, 'GetUuid'))
    if (level < 3) shown.children = browse(connection, child, level + 1)
    return shown
  })
}

const settings = org.json.simple.Jsoner.deserialize(JSON.stringify({ Name: 'Hanse', Url: this.arguments[0] }))
const connection = com.orthancserver.OrthancConnection.Unserialize(settings)
const nodeType = java.lang.Class.forName('com.orthancserver.SelectImageDialog$MyTreeNode')
const kinds = java.lang.Class.forName('com.orthancserver.SelectImageDialog$ResourceType')
const parameters = [connection.getClass(), kinds, java.lang.String, java.lang.String]
const node = nodeType.getDeclaredConstructor(parameters)
node.setAccessible(true)
const server = node.newInstance(connection, hidden(null, kinds, 'SERVER'), '', 'Hanse')
print(JSON.stringify(browse(connection, server, 0)))
java.lang.System.exit(0)
